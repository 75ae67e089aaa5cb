"""The online side of Tradewind: a routing endpoint on Ray Serve."""
