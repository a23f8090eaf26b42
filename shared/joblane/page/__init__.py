"""The operator's page: the inspector's answers and actions as plain pages for a browser on this machine."""
