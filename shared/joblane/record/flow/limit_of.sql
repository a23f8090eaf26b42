-- The values of a limit that are in force: what an operator has set, else what is declared. The limit of a key,
-- `type/key`, has what is set for this key, else for all keys of the type, else what is declared for them: `type/`.
-- `slots` null: any number of tasks. `step`: the interval between two starts, null: no rate.
create or replace function joblane.limit_of_@version(
  limit_name text, out slots integer, out step interval, out burst integer)
language plpgsql stable as $$
declare
  for_all constant text := case when strpos(limit_name, '/') > 0 then split_part(limit_name, '/', 1) || '/' else limit_name end;
begin
  select coalesce(own.slots, common.slots, d.slots),
         coalesce(own.step, common.step, d.step),
         case when own.step is not null then own.burst when common.step is not null then common.burst else d.burst end
    into slots, step, burst
    from (select) as one
    left join joblane.limits d on d.name = for_all
    left join joblane.limit_changes own
           on own.name = limit_name and (own.until is null or own.until > clock_timestamp())
    left join joblane.limit_changes common
           on common.name = for_all and (common.until is null or common.until > clock_timestamp());
end
$$
