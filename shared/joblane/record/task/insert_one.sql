-- The insert of one task without keys, limits, options and relations to other tasks, see insert.sql. Its fields are an
-- array of strings, because to read one costs less than to read JSON. It answers with the seconds until the task is due,
-- or null if its id exists.
create or replace function joblane.insert_one_@version(given text[]) returns float8 language plpgsql
set lock_timeout = '5s' set plan_cache_mode = force_generic_plan
as $$
<<d>>
declare
  setting text;
  due_at constant timestamptz := @due_one;
begin
  setting := set_config('joblane.checks', 'off', true);
  insert into joblane.tasks (@one_columns) values (@one_values) on conflict do nothing;
  setting := set_config('joblane.checks', 'on', true);
  if found then
    return date_part('epoch', d.due_at - clock_timestamp());
  end if;
  return null;
end
$$
