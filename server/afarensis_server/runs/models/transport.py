"""HTTP to model endpoints for the SDKs, which speak httpx2, by aiohttp, whose parser is C.

Beyond what httpx2 asks of a transport it hands out the body of an answer to be read a piece at a time, with nothing in
between. What comes in the meantime waits in the socket: to take each token from there by itself, and past the
generators of httpx2, is most of what a streamed answer takes.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx2
from yarl import URL

_BODY = "afarensis.body"
#: What httpx2 is told of is decoded.
_ENCODING_HEADERS = frozenset({b"content-encoding", b"content-length"})
#: Seconds that a connection without a request is kept for the next one.
_KEEPALIVE_SECONDS = 5.0


class Body:
    """The body of a response, decoded."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._paused: asyncio.Transport | None = None

    async def read(self) -> bytes:
        """All that came since the last time; waits for something to come. Empty at the end. Raises httpx2.HTTPError."""
        if self._paused is not None:
            self._paused.resume_reading()
            self._paused = None
        with _translated():
            piece = await self._response.content.readany()
        connection = self._response.connection  # None once all has come
        if connection is not None and (transport := connection.transport) is not None and not transport.is_closing():
            transport.pause_reading()
            self._paused = transport
        return piece

    async def close(self) -> None:
        """Let go of the connection; it ends unless all was read."""
        with _translated():
            self._response.release()
            await self._response.wait_for_close()


def body_of(response: httpx2.Response) -> Body:
    """What a `client` received. Whoever reads it does not read the response itself."""
    body = response.extensions[_BODY]
    assert isinstance(body, Body)
    return body


def client(connections: int) -> httpx2.AsyncClient:
    """For an SDK: it has this many connections at most; more requests wait for one. Whoever gets it closes it."""
    return httpx2.AsyncClient(
        transport=_Transport(connections),
        # What aiohttp can always decode.
        headers={"Accept-Encoding": "gzip, deflate"},
        follow_redirects=True,
    )


class _Transport(httpx2.AsyncBaseTransport):
    def __init__(self, connections: int) -> None:
        self._connections = connections
        #: What trust in certificates comes from: the environment's settings, too.
        self._ssl: ssl.SSLContext = httpx2.create_ssl_context()
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request; returns with the head of its answer. Raises httpx2.HTTPError."""
        url = URL(str(request.url), encoded=True)
        proxy, proxy_auth = _proxy(url)
        seconds = request.extensions.get("timeout", {})
        body = await request.aread()
        with _translated():
            response = await self._opened().request(
                request.method,
                url,
                headers=request.headers,
                data=body or None,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    connect=seconds.get("pool"), sock_connect=seconds.get("connect"), sock_read=seconds.get("read")
                ),
                proxy=proxy,
                proxy_auth=proxy_auth,
            )
        read = Body(response)
        return httpx2.Response(
            response.status,
            headers=[header for header in response.raw_headers if header[0].lower() not in _ENCODING_HEADERS],
            stream=_Stream(read),
            extensions={_BODY: read},
        )

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=self._connections, ssl=self._ssl, keepalive_timeout=_KEEPALIVE_SECONDS
            )
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return self._session


class _Stream(httpx2.AsyncByteStream):
    def __init__(self, body: Body) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while piece := await self._body.read():
            yield piece

    async def aclose(self) -> None:
        await self._body.close()


def _proxy(url: URL) -> tuple[URL | None, aiohttp.BasicAuth | None]:
    """The proxy that the environment names for a URL, and the credentials within its own."""
    proxies = getproxies()
    named = proxies.get(url.scheme) or proxies.get("all")
    if not named or proxy_bypass(url.authority):
        return None, None
    proxy = URL(named if "://" in named else f"http://{named}")
    auth = None if proxy.user is None else aiohttp.BasicAuth(proxy.user, proxy.password or "")
    return proxy.with_user(None), auth


@contextmanager
def _translated() -> Iterator[None]:
    """Errors of aiohttp as the ones of httpx2 that mean the same."""
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise httpx2.ConnectTimeout(str(error)) from error
    except TimeoutError as error:
        raise httpx2.ReadTimeout(str(error)) from error
    except aiohttp.ClientConnectorError as error:
        raise httpx2.ConnectError(str(error)) from error
    except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError) as error:
        raise httpx2.ReadError(str(error)) from error
    except aiohttp.InvalidURL as error:
        raise httpx2.UnsupportedProtocol(str(error)) from error
    except aiohttp.ClientError as error:
        raise httpx2.RemoteProtocolError(str(error)) from error
