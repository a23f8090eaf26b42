"""What is enqueued by SQL holds no number beyond a float's range: stricter than a client, which takes long integers."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"

# As before, and with a look at each number: JSON's own have no bound, and a float of 64 bits ends here.
CANONICAL = r"""
create or replace function joblane_canonical(value jsonb) returns text language plpgsql immutable parallel safe as $$
begin
  if jsonb_typeof(value) = 'number' and abs(value::numeric) > 1.7976931348623157e308 then
    raise exception 'payload: a number is too large' using errcode = '22023';
  end if;
  return case jsonb_typeof(value)
         when 'object' then '{' || coalesce((
              select string_agg(to_json(key)::text || ':' || joblane_canonical(item), ',' order by key collate "C")
                from jsonb_each(value) as e(key, item)), '') || '}'
         when 'array' then '[' || coalesce((
              select string_agg(joblane_canonical(item), ',' order by position)
                from jsonb_array_elements(value) with ordinality as e(item, position)), '') || ']'
         else value::text end;
end
$$
"""


def upgrade() -> None:
    op.execute(CANONICAL)
