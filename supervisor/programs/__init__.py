"""Recipes that are written from the question: ``program(question) -> code``, a module each.

They run in the driver and see the question alone, as a supervisor does; what they write runs in the
jail. Their runs are traces to train a supervisor on: other questions, other code.
"""
