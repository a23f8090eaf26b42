"""Statements for batches. ``$1`` is a JSON object with the batch's ``id``."""

from __future__ import annotations

CREATE = """
insert into joblane.batches (id, on_end, on_success)
select id, on_end, on_success from jsonb_to_record(cast($1 as jsonb)) as x(id text, on_end text, on_success text)
on conflict do nothing returning id
"""
IS_OPEN = "select sealed_at is null from joblane.batches where id = cast($1 as jsonb) ->> 'id' for share"
"""The lock makes a seal wait for the transactions that add members."""
SEAL = """
with sealed as (
  update joblane.batches set sealed_at = clock_timestamp()
   where id = cast($1 as jsonb) ->> 'id' and sealed_at is null returning id, on_end, on_success
),
gone as (
  delete from joblane.task_parents e using sealed s
   where e.child = any(array[s.on_end, s.on_success]) and e.parent = '' and e.parent_batch = s.id
)
update joblane.tasks t set sweep_at = clock_timestamp()
  from sealed s where t.id = any(array[s.on_end, s.on_success]) and t.state = 'held'
returning t.id
"""
"""The sweep sends the callbacks' messages, unless the caller sends them after the commit."""
