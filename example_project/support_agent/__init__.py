"""A support agent for a shop that sells bicycle parts by post."""

from support_agent.agent import Reply, answer
from support_agent.shop import Shop

__all__ = ["Reply", "Shop", "answer"]
