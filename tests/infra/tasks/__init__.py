"""Tasks with every option that concerns infrastructure, so that tests need no job of the platform."""
