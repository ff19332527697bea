"""scikit-learn estimators over the models and kernels: for pipelines, grid searches and cross-validation.

Names and meaning of parameters and attributes are scikit-learn's where it has them. Needs the extra `[sklearn]`.

Examples
--------
>>> from sklearn.model_selection import GridSearchCV
>>> from sklearn.pipeline import make_pipeline
>>> from sklearn.preprocessing import StandardScaler
>>> from fastnn import data
>>> from fastnn.estimators import KNeighborsClassifier
>>> train = data.digits().train
>>> pipeline = make_pipeline(StandardScaler(), KNeighborsClassifier())
>>> search = GridSearchCV(pipeline, {"kneighborsclassifier__n_neighbors": [1, 5, 50]}, cv=3)
>>> search.fit(train.images.reshape(-1, 64), train.labels).best_params_
{'kneighborsclassifier__n_neighbors': 5}
"""

from fastnn._extras import install

try:
    from fastnn.estimators.linear import LinearSVM, SoftmaxClassifier
    from fastnn.estimators.neighbors import KNeighborsClassifier
    from fastnn.estimators.neural_network import MLPClassifier
except ModuleNotFoundError as error:
    if error.name != "sklearn":
        raise
    raise ModuleNotFoundError(f"fastnn.estimators needs scikit-learn: run {install('sklearn')}") from error

__all__ = ["KNeighborsClassifier", "LinearSVM", "MLPClassifier", "SoftmaxClassifier"]
