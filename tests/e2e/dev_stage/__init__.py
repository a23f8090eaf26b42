"""The whole stage ``dev`` on the emulator: its assembly with the few changes that the emulator needs."""
