-- JSON as the library writes it for a digest: keys in order, no spaces. A number that a float of 64 bits cannot hold is
-- refused; a client is less strict and accepts long integers.
create function joblane.canonical(value jsonb) returns text language plpgsql immutable parallel safe as $$
begin
  if jsonb_typeof(value) = 'number' and abs(value::numeric) > 1.7976931348623157e308 then
    raise exception 'payload: a number is too large' using errcode = '22023';
  end if;
  return case jsonb_typeof(value)
         when 'object' then '{' || coalesce((
              select string_agg(to_json(key)::text || ':' || joblane.canonical(item), ',' order by key collate "C")
                from jsonb_each(value) as e(key, item)), '') || '}'
         when 'array' then '[' || coalesce((
              select string_agg(joblane.canonical(item), ',' order by position)
                from jsonb_array_elements(value) with ordinality as e(item, position)), '') || ']'
         else value::text end;
end
$$
