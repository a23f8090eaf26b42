"""The platform's tables and services: plain functions that take a session and do not depend on jobs.

The modules import SQLAlchemy, and some of them boto3 on first use. A handler imports them inside its function, so that
a process that only enqueues loads neither.
"""
