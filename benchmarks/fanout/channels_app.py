"""Django channels, served by daphne: run by the Python of `--channels-python`, which has them, and not by ours.

daphne -p PORT channels_app:application
"""

from __future__ import annotations

import os

from channels.generic.websocket import AsyncWebsocketConsumer  # type: ignore[import-untyped]
from channels.layers import get_channel_layer  # type: ignore[import-untyped]
from channels.routing import ProtocolTypeRouter, URLRouter  # type: ignore[import-untyped]
from django.conf import settings  # type: ignore[import-not-found]
from django.core.asgi import get_asgi_application  # type: ignore[import-not-found]
from django.http import HttpResponse  # type: ignore[import-not-found]
from django.urls import path  # type: ignore[import-not-found]

settings.configure(
    SECRET_KEY="a secret for benchmarks, 32 chars.",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [os.environ["REDIS_URL"]]},
        }
    },
)


class Consumer(AsyncWebsocketConsumer):  # type: ignore[misc]
    async def connect(self) -> None:
        await self.channel_layer.group_add(self._group, self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self._group, self.channel_name)

    async def push(self, event: dict[str, str]) -> None:
        await self.send(text_data=event["text"])

    @property
    def _group(self) -> str:
        return f"bench.{self.scope['url_route']['kwargs']['channel']}"


async def publish(request, channel):  # type: ignore[no-untyped-def]
    message = {"type": "push", "text": request.body.decode()}
    await get_channel_layer().group_send(f"bench.{channel}", message)
    return HttpResponse()


urlpatterns = [path("pub/<int:channel>", publish)]
http = get_asgi_application()
application = ProtocolTypeRouter(
    {"http": http, "websocket": URLRouter([path("sub/<int:channel>", Consumer.as_asgi())])}
)
