"""Two tasks on a place, and one with a function of its own that enqueues them."""

from joblane import Lambda

WEB = Lambda("web", memory_mb=1024, batch_size=5, max_concurrency=5, drains=("card:send",))
