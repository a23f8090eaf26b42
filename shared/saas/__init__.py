"""The platform's tables and services: plain functions that take a session and know nothing of jobs.

The modules import SQLAlchemy, and some of them boto3 when they are used; a handler imports them inside its function, so
that who only enqueues pays for neither.
"""
