"""`joblane dev`: the project's tasks in processes that restart when a file is saved, without a deploy.

The process of the command has the queues, and answers SQS's requests for them; it never imports the project's code. It
starts a *zygote*, a process that has imported the library and forks all others:

- a *control* process reads the declarations, migrates the database, and sends the ticks of schedules;
- *workers* run tasks, each process those of one type. The command receives their messages and deletes them as Lambda
  does.
"""
