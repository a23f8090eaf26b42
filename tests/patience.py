"""How long tests wait for something that must happen. No test measures this time: a slow machine may need it."""

PATIENCE_SECONDS = 300
