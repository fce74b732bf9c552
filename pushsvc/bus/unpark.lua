-- Jobs of a kind have ended: let as many of the parked ones wait with the others again.
-- KEYS: queue. ARGV: for each kind: name, tenant, owner ('' and '' for all), how many.
local found = 0
for i = 1, #ARGV, 4 do
  local job = {name = ARGV[i], tenant = ARGV[i + 1], owner = ARGV[i + 2]}
  local tree = job.tenant == '' and parked_all(job) or parked_each(job)
  if is_parked(tree) then found = found + unpark(tree, tonumber(ARGV[i + 3])) end
end
return found
