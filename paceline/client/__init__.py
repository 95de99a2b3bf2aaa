"""The client: predictions over HTTP or natively, with the same names and errors."""

from paceline.client.call import Prediction
from paceline.client.client import AsyncClient, Client
from paceline.client.errors import ServerUnreachable

__all__ = ["AsyncClient", "Client", "Prediction", "ServerUnreachable"]
