"""The names of the systems on the page, in the order of its tables."""

TITLES = {
    "joblane": "Joblane",
    "celery": "Celery",
    "dramatiq": "Dramatiq",
    "taskiq": "taskiq",
    "oban": "Oban",
    "procrastinate": "Procrastinate",
    "pgqueuer": "PgQueuer",
    "dbos": "DBOS",
}
