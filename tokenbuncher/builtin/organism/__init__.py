"""The built-in world: a tiny language model with an inert "harmful" domain, for real runs offline.

`organism://` names its aligned model. See `world` for what it speaks and `build` for how it is made.
"""
