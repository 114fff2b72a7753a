"""fastattack"""
from . import ops
