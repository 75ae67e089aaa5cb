"""The batch side of Tradewind: one module a stage, in the order in which data flows."""
