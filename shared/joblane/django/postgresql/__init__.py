"""Django's PostgreSQL, with the logins of ``DATABASE_URL``: a password, IAM, or a secret in Secrets Manager."""
