"""HTTP to model endpoints for the SDKs, which speak httpx2, by aiohttp, whose parser is C.

Beyond what httpx2 asks of a transport it hands out the body of an answer to be read a piece at a time, with nothing in
between. What comes in the meantime waits in the socket: to take each token from there by itself, and past the
generators of httpx2, is most of what a streamed answer takes.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
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
        #: The connection, while it is kept from reading.
        self._paused: asyncio.Transport | None = None
        self._begun = False

    async def read(self) -> bytes:
        """All that came since the last time; waits for something to come. Empty at the end. Raises httpx2.HTTPError.

        It waits for as long as its caller does: only the caller knows how long nobody asked.
        """
        if self._paused is None:
            self._begin()
        self.resume()
        with _translated():
            try:
                piece = await self._response.content.readany()
            except RuntimeError as error:
                # What aiohttp says between the end of a connection and the error that tells of it.
                raise httpx2.ReadError(str(error)) from error
        connection = self._response.connection  # None once all has come
        if connection is not None and (transport := connection.transport) is not None and not transport.is_closing():
            # Not by aiohttp's own protocol, whose parser would stop behind the next piece of what is read then.
            transport.pause_reading()
            self._paused = transport
        return piece

    def resume(self) -> None:
        """Let the connection go on: one that is paused can neither be read nor closed."""
        if self._paused is not None:
            self._paused.resume_reading()
            self._paused = None

    def _begin(self) -> None:
        connection = self._response.connection
        if self._begun or connection is None or (protocol := connection.protocol) is None:
            return
        self._begun = True
        protocol.read_timeout = None
        protocol.start_timeout()
        # Where it cannot be parsed, aiohttp closes the connection and tells nobody who reads.
        if (closed := protocol.closed) is not None:
            closed.remove_done_callback(_look)
            closed.add_done_callback(_look)
            closed.add_done_callback(self._lost)
            self._response.content.on_eof(lambda: _forget(closed, self._lost))

    def _lost(self, _closed: "asyncio.Future[None]") -> None:
        content = self._response.content
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError("the connection was closed within the body"))


def _look(closed: "asyncio.Future[None]") -> None:
    """Take the error that nobody else asks for, or asyncio would log it."""
    if not closed.cancelled():
        closed.exception()


def _forget(closed: "asyncio.Future[None]", callback: Callable[["asyncio.Future[None]"], None]) -> None:
    # Connections are used again and again.
    closed.remove_done_callback(callback)


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
        # Of credentials in it, httpx2 has made a header.
        url = URL(str(request.url), encoded=True).with_user(None)
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
                proxy=_proxy(url),
            )
        read = Body(response)
        return httpx2.Response(
            response.status,
            headers=[header for header in response.raw_headers if header[0].lower() not in _ENCODING_HEADERS],
            stream=_Stream(response, read),
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
    """The same body as httpx2 reads it: an error's, say."""

    def __init__(self, response: aiohttp.ClientResponse, body: Body) -> None:
        self._response = response
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _translated():
            async for piece in self._response.content.iter_any():
                yield piece

    async def aclose(self) -> None:
        """Let go of the connection; it ends unless all was read."""
        self._body.resume()
        with _translated():
            self._response.release()
            await self._response.wait_for_close()


def _proxy(url: URL) -> URL | None:
    """The proxy that the environment names for a URL."""
    proxies = getproxies()
    named = proxies.get(url.scheme) or proxies.get("all")
    if not named or proxy_bypass(url.authority):
        return None
    return URL(named if "://" in named else f"http://{named}")


@contextmanager
def _translated() -> Iterator[None]:
    """Errors of aiohttp as the ones of httpx2 that mean the same."""
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise httpx2.ConnectTimeout(str(error)) from error
    except TimeoutError as error:
        raise httpx2.ReadTimeout(str(error)) from error
    except aiohttp.ClientHttpProxyError as error:
        raise httpx2.ProxyError(str(error)) from error
    except aiohttp.ClientConnectorError as error:
        raise httpx2.ConnectError(str(error)) from error
    except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError) as error:
        raise httpx2.ReadError(str(error)) from error
    except aiohttp.InvalidURL as error:
        raise httpx2.UnsupportedProtocol(str(error)) from error
    except aiohttp.ClientError as error:
        raise httpx2.RemoteProtocolError(str(error)) from error
