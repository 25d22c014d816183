"""HTTP/1.1 as this broker speaks it, whoever listens: sockets, the accept loop, requests, answers, and their bounds.

It knows nothing of routes, nor of what an answer means; the public door and the admin listener bring those.
"""

from broker.http.answer import Answer, Refused, json_answer, refusal
from broker.http.bearer import bearer_token
from broker.http.bounds import HttpBounds
from broker.http.conversation import ConnectionOver, Conversation
from broker.http.listener import describe_listener, listen
from broker.http.paths import match_path, parse_path
from broker.http.request import Request, parse_request

__all__ = [
    "Answer",
    "ConnectionOver",
    "Conversation",
    "HttpBounds",
    "Refused",
    "Request",
    "bearer_token",
    "describe_listener",
    "json_answer",
    "listen",
    "match_path",
    "parse_path",
    "parse_request",
    "refusal",
]
