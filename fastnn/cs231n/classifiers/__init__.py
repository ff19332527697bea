"""The course's classifiers of rows: k nearest neighbours, the linear SVM and the softmax classifier."""

from __future__ import annotations

from fastnn.cs231n.classifiers.k_nearest_neighbor import KNearestNeighbor
from fastnn.cs231n.classifiers.linear_classifier import LinearClassifier, LinearSVM, Softmax
from fastnn.cs231n.classifiers.linear_svm import svm_loss_naive, svm_loss_vectorized
from fastnn.cs231n.classifiers.softmax import softmax_loss_naive, softmax_loss_vectorized

__all__ = [
    "KNearestNeighbor",
    "LinearClassifier",
    "LinearSVM",
    "Softmax",
    "softmax_loss_naive",
    "softmax_loss_vectorized",
    "svm_loss_naive",
    "svm_loss_vectorized",
]
