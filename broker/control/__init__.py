"""The control plane: rooms that mirror an organization's state, and the sessions of SDKs that must not miss a kill.

Everything that a session is told passes its organization's room, in the order of the organization's log.
"""
