"""Schemas of KubeRay's custom resources (group ray.io, version v1), written down here field by field.

The operator's definitions come in no package, so they cannot be a dependency of the tests. These schemas name fields of
its API reference at each level above the pods, with their types, defaults left out, and refuse all else; what an
older release required is required. So they are narrower than the definitions: what passes here is not refused there
for a misspelt, misplaced or missing field. Pod templates and volumes are Kubernetes' own types and are checked against
its published schemas instead. On a cluster that has the operator, `kubectl apply --dry-run=server` asks the
definitions themselves.

Fields, types and choices were compared with docs/reference/api.md of ray-project/kuberay, generated from its Go types:
release 1.7.0 (commit 97509c3a7216) and, as the older one, 1.6.2 (commit 0a9eabde561a). What is required was compared
with ray-operator/apis/ray/v1/*_types.go (raycluster of 1.7, rayjob and rayservice of 1.5) and, for RayCronJob, with
ray-operator/config/crd/bases/ray.io_raycronjobs.yaml (commit 12cb11e48d1a, before 1.6.0).
"""

from typing import Any

STRINGS: dict[str, Any] = {"type": "object", "additionalProperties": {"type": "string"}}
TEXT: dict[str, Any] = {"type": "string"}
WHOLE: dict[str, Any] = {"type": "integer", "minimum": 0}
NUMBER: dict[str, Any] = {"type": "number", "minimum": 0}
FLAG: dict[str, Any] = {"type": "boolean"}
POD_TEMPLATE: dict[str, Any] = {"type": "object", "required": ["spec"]}


def group(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    """Return the schema of an object with these fields and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def one_of(*values: str) -> dict[str, Any]:
    """Return the schema of a choice."""
    return {"enum": list(values)}


REDIS_CREDENTIAL = group(
    value=TEXT, valueFrom=group(secretKeyRef=group(("name", "key"), name=TEXT, key=TEXT, optional=FLAG))
)

CLUSTER = group(
    ("headGroupSpec",),
    rayVersion=TEXT,
    suspend=FLAG,
    managedBy=one_of("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"),
    enableInTreeAutoscaling=FLAG,
    authOptions=group(mode=one_of("disabled", "token")),
    autoscalerOptions=group(
        idleTimeoutSeconds=WHOLE,
        upscalingMode=one_of("Default", "Aggressive", "Conservative"),
        version=one_of("v1", "v2"),
        image=TEXT,
        imagePullPolicy=TEXT,
        resources={"type": "object"},
        env={"type": "array"},
        envFrom={"type": "array"},
        volumeMounts={"type": "array"},
        securityContext={"type": "object"},
    ),
    gcsFaultToleranceOptions=group(
        ("redisAddress",),
        redisAddress=TEXT,
        redisUsername=REDIS_CREDENTIAL,
        redisPassword=REDIS_CREDENTIAL,
        externalStorageNamespace=TEXT,
    ),
    headServiceAnnotations=STRINGS,
    headGroupSpec=group(
        ("rayStartParams", "template"),
        serviceType=one_of("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"),
        headService={"type": "object"},
        enableIngress=FLAG,
        rayStartParams=STRINGS,
        template=POD_TEMPLATE,
    ),
    workerGroupSpecs={
        "type": "array",
        "items": group(
            ("groupName", "rayStartParams", "template", "minReplicas", "maxReplicas"),
            groupName=TEXT,
            replicas=WHOLE,
            minReplicas=WHOLE,
            maxReplicas=WHOLE,
            numOfHosts=WHOLE,
            rayStartParams=STRINGS,
            scaleStrategy=group(workersToDelete={"type": "array", "items": TEXT}),
            template=POD_TEMPLATE,
        ),
    },
)

JOB = group(
    ("entrypoint", "rayClusterSpec"),  # optional in the definition, where a job may select a standing cluster
    entrypoint=TEXT,
    submissionMode=one_of("K8sJobMode", "HTTPMode", "InteractiveMode"),
    runtimeEnvYAML=TEXT,
    jobId=TEXT,
    metadata=STRINGS,
    entrypointNumCpus=NUMBER,
    entrypointNumGpus=NUMBER,
    entrypointResources=TEXT,
    backoffLimit=WHOLE,
    activeDeadlineSeconds={"type": "integer", "minimum": 1},
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished=WHOLE,
    suspend=FLAG,
    managedBy=one_of("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"),
    clusterSelector=STRINGS,
    submitterConfig=group(backoffLimit=WHOLE),
    submitterPodTemplate=POD_TEMPLATE,
    rayClusterSpec=CLUSTER,
)

SPECS = {
    "RayCluster": CLUSTER,
    "RayJob": JOB,
    "RayCronJob": group(("schedule", "jobTemplate"), schedule=TEXT, jobTemplate=JOB),
    "RayService": group(
        ("serveConfigV2", "rayClusterConfig"),
        serveConfigV2=TEXT,
        rayClusterConfig=CLUSTER,
        upgradeStrategy=group(type=one_of("NewCluster", "None")),
        excludeHeadPodFromServeSvc=FLAG,
        serveService={"type": "object"},
    ),
}


def resource(kind: str) -> dict[str, Any]:
    """Return the schema of a whole manifest of one of KubeRay's kinds."""
    return group(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion=one_of("ray.io/v1"),
        kind=one_of(kind),
        metadata=group(("name",), name=TEXT, namespace=TEXT, labels=STRINGS, annotations=STRINGS),
        spec=SPECS[kind],
    )
