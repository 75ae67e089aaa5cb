"""The checks that LLM Bandit's paper asks for, as one report: ``evaluate suite=llm_bandit``.

One module a check; each says which policies it needs trained, and then compares them.
"""
