"""The operator's page: what an inspector shows and does, as plain pages for a browser on this machine."""
