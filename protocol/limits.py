"""Every bound of the system, with its name and default: counts AND bytes.

Readers of bytes check these before they allocate; the config may lower or raise those that it calls
settings, and passes them on in the ServeSpec. Called by every room; knows nothing of any.
"""

from __future__ import annotations

# One ZeroMQ message.
HEAD_BYTES_MAX = 4 * 1024 * 1024
FRAME_BYTES_MAX = 256 * 1024 * 1024
MESSAGE_FRAMES_MAX = 4096
MESSAGE_BYTES_MAX = 512 * 1024 * 1024
# Frames of one request or result: it fits a message of its own with that one's head, and the message a Done.
ITEM_BYTES_MAX = MESSAGE_BYTES_MAX - 2 * HEAD_BYTES_MAX
TREE_DEPTH_MAX = 8
TREE_LEAVES_MAX = 1024
TENSOR_RANK_MAX = 16
KEY_BYTES_MAX = 4096
ID_CHARS_MAX = 512
TEXT_BYTES_MAX = 16 * 1024

# A message of many requests is cut at whichever comes first.
MESSAGE_REQUESTS_MAX = 64
MESSAGE_BYTES_CUT = 1024 * 1024

# A tensor up to this size travels inside the head; above, it is a frame of its own. Measured in benchmarks/:
# a frame costs about 1.5 us on each side, whatever its size.
INLINE_BYTES_MAX = 4096

# One request's or result's share of a head: small values are inline until the first; keys and shapes may take the rest.
# MESSAGE_REQUESTS_MAX of the largest fit into HEAD_BYTES_MAX, so that no request can spoil the message it shares.
ITEM_INLINE_BYTES_MAX = 16 * 1024
ITEM_HEAD_BYTES_MAX = 48 * 1024

# pyzmq hands frames from this size on to libzmq without a copy; smaller ones are cheaper copied.
COPY_THRESHOLD_BYTES = 64 * 1024

# One request.
REQUEST_ROWS_MAX = 4096
BODY_BYTES_MAX = 64 * 1024 * 1024
JSON_DEPTH_MAX = 32
# Parsing holds the loop and the interpreter: this much takes 0.03 to 0.15 s, and more is for the binary form.
JSON_BYTES_MAX = 4 * 1024 * 1024

# HTTP connection hardening.
HEADERS_BYTES_MAX = 16 * 1024
HEADERS_COUNT_MAX = 100
TARGET_BYTES_MAX = 8 * 1024
HEADERS_READ_S = 10.0
BODY_CHUNKS_MAX = 65_536
REQUEST_ID_CHARS_MAX = 128

# One request of a service: an image before it is decoded, the parts of a form, the functions that run in threads and
# those that wait for one.
IMAGE_PIXELS_MAX = 40_000_000
FORM_PARTS_MAX = 64
SERVICE_THREADS = 16
SERVICE_WAITING_MAX = 1024

# One API server's window per dispatch host, returned by answers; and what waits behind it.
WINDOW_REQUESTS = 1024
WINDOW_BYTES = 256 * 1024 * 1024
PENDING_REQUESTS_MAX = 4096
PENDING_BYTES_MAX = 256 * 1024 * 1024

# One dispatcher.
QUEUE_ROWS_MAX = 65_536
QUEUE_BYTES_MAX = 1024 * 1024 * 1024
BATCH_ROWS_DEFAULT = 64
STARTS_MAX = 2

# One Forecast: workers, latency tables, sizes of one table, points of the backlog.
FORECAST_WORKERS_MAX = 64
FORECAST_TABLES_MAX = 8
FORECAST_SIZES_MAX = 16
FORECAST_POINTS_MAX = 8

# One trace of torch's profiler: seconds, and events, about 250 bytes each. Ending one with this many stops the worker
# for half a second.
TRACE_S_MIN, TRACE_S_MAX = 0.1, 60.0
TRACE_EVENTS_MAX = 100_000

# One recording of a dispatcher: the file, and what waits for the disk.
RECORD_BYTES_MAX = 1024 * 1024 * 1024
RECORD_PENDING_BYTES_MAX = 64 * 1024 * 1024

# Time, seconds unless the name says otherwise.
LATENCY_BUDGET_MS = 30_000.0
# From the end of a batch until its API server has the answers, and with the way through a broker.
REPLY_S = 0.0005
POOL_REPLY_S = 0.0007
TIMEOUT_MAX_MS = 600_000.0
DRAIN_GRACE_S = 30.0
HEARTBEAT_S = 0.5
HANG_S = 3.0

# Sockets.
SOCKET_HWM = 65_536
SOCKET_LINGER_MS = 200
IPC_PATH_BYTES_MAX = 100

# Clients on other machines: messages in one direction of one connection (a window is WINDOW_REQUESTS), how often each
# side is heard of, how long one part may be on its way, how long nothing may be acknowledged; and their keys.
REMOTE_HWM = 2048
REMOTE_HEARTBEAT_MS = 1000
REMOTE_PART_MS_MAX = 30_000
REMOTE_BROKEN_MS = 5000
KEY_FILE_BYTES_MAX = 4096
CLIENT_KEYS_MAX = 1024
