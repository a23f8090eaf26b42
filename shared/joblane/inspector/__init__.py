"""The operator's API: the command line, the page and the control API all act through :class:`Inspector`.

- ``inspector``: its operations, each with the ``permission`` that it takes; ``views``: their answers; ``filter``: which
  tasks; ``errors``; ``scope``: the database, queues and declarations that they work with
- ``tasks``: listings, one task, its logs; ``stage``: queues, schedules, pauses, statistics, the doctor
- ``actions``: on one task, each in the audit; ``bulk``: on many, as a task of their own, and dead letters
- ``wire``, ``remote``: the same operations over the control API
"""
