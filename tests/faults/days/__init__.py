"""Days in virtual time: the database, the queues, the workers, and the sweep that plans its own next run."""
