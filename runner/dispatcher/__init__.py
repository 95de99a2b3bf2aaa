"""The dispatcher: a pure object that forms batches. Events and the time go in, actions come out."""

from paceline.runner.dispatcher.actions import Action, Dispatch, Reject, RejectReason, WakeAt
from paceline.runner.dispatcher.config import DispatcherConfig
from paceline.runner.dispatcher.dispatcher import Dispatcher
from paceline.runner.dispatcher.events import (
    Arrived,
    BatchDone,
    Cancelled,
    CapChanged,
    Event,
    Measured,
    Tick,
    WorkerDraining,
    WorkerJoined,
    WorkerLost,
)
from paceline.runner.dispatcher.forecast import Forecast, KeyForecast, WorkerForecast

__all__ = [
    "Action",
    "Arrived",
    "BatchDone",
    "Cancelled",
    "CapChanged",
    "Dispatch",
    "Dispatcher",
    "DispatcherConfig",
    "Event",
    "Forecast",
    "KeyForecast",
    "Measured",
    "Reject",
    "RejectReason",
    "Tick",
    "WakeAt",
    "WorkerDraining",
    "WorkerForecast",
    "WorkerJoined",
    "WorkerLost",
]
