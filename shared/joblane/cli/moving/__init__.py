"""`joblane move celery`: reads a Celery application as source, and writes handlers and a report."""
