-- As call.lua, but each request has a header that none of the thousands before it had.
local folder = debug.getinfo(1, "S").source:match("^@(.*)fresh%.lua$")
dofile(folder .. "call.lua")

local once = init
local requests, last = {}, 0

function init(args)
   once(args)
   for number = 1, 20000 do
      wrk.headers["X-Request-Id"] = tostring(number)
      requests[number] = wrk.format()
   end
end

function request()
   last = last % #requests + 1
   return requests[last]
end
