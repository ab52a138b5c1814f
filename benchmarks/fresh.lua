-- As call.lua, but no request has the trace, the request id and the deadline of one of the thousands before it.
local folder = debug.getinfo(1, "S").source:match("^@(.*)fresh%.lua$")
dofile(folder .. "call.lua")

local once = init
local requests, last = {}, 0

function init(args)
   once(args)
   for number = 1, 20000 do
      wrk.headers["X-Request-Id"] = string.format("%032x", number)
      wrk.headers["Traceparent"] = string.format("00-%032x-%016x-01", number, number)
      wrk.headers["Connect-Timeout-Ms"] = tostring(10000 + number % 1000)
      requests[number] = wrk.format()
   end
end

function request()
   last = last % #requests + 1
   return requests[last]
end
