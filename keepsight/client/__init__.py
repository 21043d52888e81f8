"""The client library: `Client`, `AsyncClient`, and the errors that they raise. Needs only httpx.

`api` holds the types of answers; the other modules are parts of the clients.
"""

from keepsight.client.async_client import AsyncClient
from keepsight.client.errors import ApiError, ClientError, DownloadError, ServiceUnreachableError, UploadError
from keepsight.client.retries import Retries
from keepsight.client.sync_client import Client

__all__ = [
    "ApiError",
    "AsyncClient",
    "Client",
    "ClientError",
    "DownloadError",
    "Retries",
    "ServiceUnreachableError",
    "UploadError",
    "__version__",
]

__version__ = "0.2.0"
