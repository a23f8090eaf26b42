"""The library's own Lambda functions: the sweep, bulk actions, the router, the control API, the migration."""
