-- Returns the first problem of a value, with the path of its field and without the value, or null. The nodes of the check
-- are described in joblane/record/payload_description.py.
create function joblane.payload_problem(node jsonb, value jsonb, defs jsonb, path text default '', depth integer default 0)
returns text language plpgsql immutable as $$
declare
    kind constant text := jsonb_typeof(value);
    here constant text := case when path = '' then '' else path || ': ' end;
    wrong constant text := here || (node ->> 'says') || ' is required';
    prefix constant text := case when path = '' then '' else path || '.' end;
    name text;
    one jsonb;
    problem text;
    nested text;
    number integer := 0;
begin
    if jsonb_typeof(node) is distinct from 'object' or depth > 50 then
        return null;
    elsif node ? 'ref' then
        return joblane.payload_problem(defs -> (node ->> 'ref'), value, defs, path, depth + 1);
    elsif node ? 'one_of' then
        return case when kind = 'string' and node -> 'one_of' ? (value #>> '{}') then null else wrong end;
    elsif node ? 'any' then
        for one in select * from jsonb_array_elements(node -> 'any') loop
            problem := joblane.payload_problem(one, value, defs, path, depth + 1);
            if problem is null then
                return null;
            elsif one ? 'fields' and kind = 'object' or one ? 'items' and kind = 'array' then
                nested := problem;
                number := number + 1;
            end if;
        end loop;
        return case when number = 1 then nested else wrong end;
    elsif not node -> 'is' ? kind then
        return wrong || ', not ' || case kind when 'string' then 'a text' when 'array' then 'a list' when 'null' then 'null'
                                              when 'object' then 'an object' else 'a ' || kind end;
    elsif kind = 'string' and node ? 'numeric' and value #>> '{}' !~* '[0-9]|inf|nan' then
        return wrong || ', not a text without a digit';
    elsif kind = 'number' and node ? 'whole' and (value #>> '{}')::numeric % 1 <> 0 then
        return wrong || ', not a fraction';
    elsif kind = 'array' then
        for one in select * from jsonb_array_elements(value) loop
            exit when jsonb_typeof(node -> 'items') is distinct from 'object' or problem is not null;
            problem := joblane.payload_problem(node -> 'items', one, defs, prefix || number, depth + 1);
            number := number + 1;
        end loop;
        return problem;
    elsif kind <> 'object' then
        return null;
    elsif node ? 'fields' then
        for one in select * from jsonb_array_elements(node -> 'required') loop
            if not value ?| array(select jsonb_array_elements_text(one)) then
                return prefix || (one ->> 0) || ': a value is required';
            end if;
        end loop;
        if (node ->> 'closed')::boolean and exists (select from jsonb_object_keys(value) k where not node -> 'fields' ? k) then
            return here || 'an unknown field; known are '
                || coalesce((select string_agg(k, ', ') from (select k from jsonb_object_keys(node -> 'fields') k limit 10) f),
                            'none');
        end if;
        for name, one in select * from jsonb_each(value) loop
            problem := joblane.payload_problem(node -> 'fields' -> name, one, defs, prefix || name, depth + 1);
            exit when problem is not null;
        end loop;
        return problem;
    elsif jsonb_typeof(node -> 'values') = 'object' then  -- its keys are the sender's, and are not shown
        for one in select v from jsonb_each(value) as e(k, v) loop
            problem := joblane.payload_problem(node -> 'values', one, defs, prefix || '*', depth + 1);
            exit when problem is not null;
        end loop;
        return problem;
    end if;
    return null;
end
$$
