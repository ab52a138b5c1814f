-- Repeats one request, made before the first is sent. Arguments: the method, and the file that the body is in.
function init(args)
   local file = assert(io.open(args[2], "rb"))
   wrk.method = args[1]
   wrk.body = file:read("*a")
   file:close()
end

function done(summary, latency)
   local e = summary.errors
   io.write(string.format(
      'RESULT {"requests": %d, "seconds": %.6f, "p50_us": %d, "p99_us": %d, "errors": '
         .. '{"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}}\n',
      summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99),
      e.connect, e.read, e.write, e.status, e.timeout))
end
