"""Runs learned states for serving: classifier, passes, packed weights, golden answers, process settings.

Begin with `classifier.Classifier`.
"""
