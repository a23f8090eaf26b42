"""Two places with container images, and a task without one."""

from joblane import Lambda

WEB = Lambda("web", memory_mb=1024, image="shop")
TRAIN = Lambda("train", image="built")
