-- Shortens one URL after the other, and keeps some of the answers, to be checked. Wants `-t1`.
local SAMPLE, MOST = 50, 200
local thread

function setup(one)
   thread = one
end

function init()
   asked, answered, others, kept = 0, 0, 0, ""
end

function request()
   asked = asked + 1
   return wrk.format("POST", wrk.path .. "?url=https://example.com/" .. asked)
end

function response(status, _, body)
   answered = answered + 1
   if status ~= 200 then
      others = others + 1
   elseif answered % SAMPLE == 1 and answered < SAMPLE * MOST then
      kept = kept .. (kept == "" and "" or ", ") .. body
   end
end

function done(summary, latency)
   local e = summary.errors
   io.write(string.format(
      'RESULT {"requests": %d, "seconds": %.6f, "p50_us": %d, "p99_us": %d, "errors": '
         .. '{"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}, "kept": [%s]}\n',
      summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99),
      e.connect, e.read, e.write, thread:get("others"), e.timeout, thread:get("kept"):gsub("%s+$", "")))
end
