"""The library's own Lambdas: the sweep, bulk actions, the router, the control API, the migration."""
