"""Tasks that use all a declaration can say about infrastructure, so that tests need no job of the platform."""
