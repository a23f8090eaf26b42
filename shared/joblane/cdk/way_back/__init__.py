"""The way back from a deploy that `joblane deploy --watch` watches: earlier templates, rules, alarms."""
