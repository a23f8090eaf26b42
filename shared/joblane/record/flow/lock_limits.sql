-- The lock of a limit, until the end of the transaction: the claim and the function that gives slots hold it. It is an
-- advisory lock on the widest limit of each task (shared, else total, else key), so a task needs one lock, and they are
-- taken in one order. Only a statement that begins after the lock was taken sees what others have committed under it.
-- 7 keeps the numbers apart from those of other advisory locks that are made from the same names.
create or replace function joblane.lock_limits_@version(names text[]) returns void language plpgsql
set search_path = pg_catalog, pg_temp as $$
declare
  number bigint;
begin
  for number in
    select distinct hashtextextended(name, 7) from unnest(names) as name where name is not null order by 1
  loop
    if current_setting('transaction_isolation') <> 'read committed' then
      raise exception 'limits: the isolation level read committed is required, not %',
        current_setting('transaction_isolation')
        using hint = 'Set default_transaction_isolation of the database or the role to read committed.';
    end if;
    perform pg_advisory_xact_lock(number);
  end loop;
end
$$
