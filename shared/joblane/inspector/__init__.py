"""The operator's API: the command line, the page and the control API all act through :class:`Inspector`.

- ``inspector``: the operations, each with its ``permission``; ``views``: their answers; ``filter``: how to choose
  tasks; ``errors``; ``scope``: the database, queues and declarations of one stage
- ``tasks``: listings, one task, its logs; ``stage``: queues, schedules, pauses, statistics, the doctor
- ``actions``: actions on one task, each with an audit entry; ``bulk``: actions on many tasks, and dead letters
- ``wire``, ``remote``: the same operations over the control API
"""
