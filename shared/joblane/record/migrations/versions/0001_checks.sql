-- PostgreSQL parses the condition of a trigger in each statement, and a call of a function is the shortest.
create function joblane.checks() returns boolean language plpgsql stable as $$
begin
    return current_setting('joblane.checks', true) is distinct from 'off';
end
$$
