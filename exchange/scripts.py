"""The Lua scripts behind `Jobs`: each reads a job's hash, changes it and announces the change, in one atomic step.

KEYS[1] is the job's hash; KEYS[2] its events channel (or, for CREATE, the set of all jobs).
"""

from typing import Final

# ARGV: job id, when it was created, seconds to keep or 0, then fields and values
CREATE: Final = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 'exists' end
for i = 4, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
if tonumber(ARGV[3]) > 0 then redis.call('EXPIRE', KEYS[1], ARGV[3]) end
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
return 'created'
"""

# ARGV: now, seconds to keep
REQUEST_CANCEL: Final = """
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return 'missing' end
if state ~= 'queued' and state ~= 'running' then return state end
redis.call('HSET', KEYS[1], 'cancel_requested', '1')
if state == 'queued' and tonumber(redis.call('HGET', KEYS[1], 'attempts')) == 0 then
  redis.call('HSET', KEYS[1], 'state', 'cancelled', 'finished_at', ARGV[1])
  redis.call('HDEL', KEYS[1], 'progress')
  redis.call('EXPIRE', KEYS[1], ARGV[2])
end
redis.call('PUBLISH', KEYS[2], 'state')
return 'asked'
"""

# ARGV: owner, now, heartbeat
CLAIM: Final = """
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return 'missing' end
if state == 'running' and redis.call('HGET', KEYS[1], 'owner') == ARGV[1] then return 'claimed' end
if state ~= 'queued' then return state end
redis.call('HSET', KEYS[1], 'state', 'running', 'owner', ARGV[1], 'heartbeat', ARGV[3])
redis.call('HSETNX', KEYS[1], 'started_at', ARGV[2])
redis.call('HINCRBY', KEYS[1], 'attempts', 1)
redis.call('HDEL', KEYS[1], 'progress')
redis.call('PUBLISH', KEYS[2], 'state')
return 'claimed'
"""

# ARGV: owner, heartbeat
HEARTBEAT: Final = """
if redis.call('HGET', KEYS[1], 'state') ~= 'running' then return 'over' end
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 'another' end
redis.call('HSET', KEYS[1], 'heartbeat', ARGV[2])
return 'beaten'
"""

# ARGV: heartbeat
WAITING_HEARTBEAT: Final = """
if redis.call('HGET', KEYS[1], 'state') ~= 'queued' then return 'over' end
redis.call('HSET', KEYS[1], 'heartbeat', ARGV[1])
return 'beaten'
"""

# ARGV: owner, heartbeat, progress
PROGRESS: Final = """
if redis.call('HGET', KEYS[1], 'state') ~= 'running' then return 'over' end
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 'another' end
redis.call('HSET', KEYS[1], 'heartbeat', ARGV[2], 'progress', ARGV[3])
redis.call('PUBLISH', KEYS[2], 'progress')
return 'saved'
"""

# ARGV: the outcome of the instant version
INSTANT: Final = """
local state = redis.call('HGET', KEYS[1], 'state')
if state ~= 'queued' and state ~= 'running' then return 'over' end
redis.call('HSET', KEYS[1], 'instant', ARGV[1])
redis.call('PUBLISH', KEYS[2], 'progress')
return 'saved'
"""

# ARGV: the report
LABELS: Final = """
local state = redis.call('HGET', KEYS[1], 'state')
if state ~= 'queued' and state ~= 'running' then return 'over' end
redis.call('HSET', KEYS[1], 'labels', ARGV[1])
redis.call('PUBLISH', KEYS[2], 'progress')
return 'saved'
"""

# ARGV: owner, the report
CONTRIBUTIONS: Final = """
if redis.call('HGET', KEYS[1], 'state') ~= 'running' then return 'over' end
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 'another' end
redis.call('HSET', KEYS[1], 'contributions', ARGV[2])
redis.call('PUBLISH', KEYS[2], 'progress')
return 'saved'
"""

# ARGV: owner or '', heartbeat or '', '1' if the attempt counts
REQUEUE: Final = """
if redis.call('HGET', KEYS[1], 'state') ~= 'running' then return 'over' end
if ARGV[1] ~= '' and redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 'another' end
if ARGV[2] ~= '' and redis.call('HGET', KEYS[1], 'heartbeat') ~= ARGV[2] then return 'alive' end
redis.call('HSET', KEYS[1], 'state', 'queued')
redis.call('HDEL', KEYS[1], 'owner', 'heartbeat', 'progress')
if ARGV[3] ~= '1' then redis.call('HINCRBY', KEYS[1], 'attempts', -1) end
redis.call('PUBLISH', KEYS[2], 'state')
return 'requeued'
"""

# ARGV: state, now, outcome or '', error or '', seconds to keep, receipt or ''
FINISH: Final = """
local state = redis.call('HGET', KEYS[1], 'state')
if state ~= 'queued' and state ~= 'running' then return 'over' end
redis.call('HSET', KEYS[1], 'state', ARGV[1], 'finished_at', ARGV[2])
if ARGV[3] ~= '' then redis.call('HSET', KEYS[1], 'outcome', ARGV[3]) end
if ARGV[4] ~= '' then redis.call('HSET', KEYS[1], 'error', ARGV[4]) end
if ARGV[6] ~= '' then redis.call('HSET', KEYS[1], 'receipt', ARGV[6]) end
redis.call('HDEL', KEYS[1], 'owner', 'heartbeat')
redis.call('EXPIRE', KEYS[1], ARGV[5])
redis.call('PUBLISH', KEYS[2], 'state')
return 'finished'
"""
