package scenario

import "testing"

// scenarios lists the scenarios that every mode runs in parallel.
var scenarios = []func(t *testing.T){
	// backlog.go
	TestSubscriberBuffer,
	TestBacklogMemory,
	// delivery.go
	TestNothingIsLostAfterSubscribing,
	TestEveryPublicationReachesBothProtocols,
	TestOrderOfOnePublisher,
	TestPipelinedRetainedPublishesKeepTheirOrder,
	TestOrderOfPosts,
	TestTopicsAreOpaque,
	TestClientsThatLeaveAreForgotten,
	// durable.go
	TestDurableStream,
	TestPlainSubscriberSeesRetainedPublishes,
	TestDurableResume,
	TestDurableResumeWithSpacePaddedHex,
	TestDurableTopicsThatNeedEscaping,
	TestIDIncludesGivenVersions,
	TestClears,
	TestTTL,
	TestRestart,
	TestDurableVersionsNeverStepBack,
	// ending.go
	TestTokenExpires,
	TestTokenExpiryIsNotEnforced,
	TestKeyIsDeleted,
	TestDrain,
	TestDrainWithoutClients,
	TestDrainServesDeletions,
	TestDrainWithStalledReader,
	TestDrainDuringRequests,
	TestStreamClientThatKeepsSending,
	// framing.go
	TestStreamFraming,
	TestRefusalFraming,
	TestCutStreamHasNoLastChunk,
	// halfclose.go
	TestHalfClosedConnections,
	// headerfields.go
	TestHeaderFields,
	TestHTTPToTLS,
	// http2.go
	TestHTTP2Streams,
	TestHTTP2StalledReader,
	TestSilentHTTP2StreamStays,
	TestHTTP2StreamEndsWhole,
	TestHTTP2Requests,
	TestHTTP2RequestHeaders,
	// limits.go
	TestMaxConnections,
	TestTakeoverAtMaxConnections,
	TestMaxConnectionsBeforeConnect,
	TestMaxConnectionsPerIP,
	TestMaxConnectionsPerIPAreReleased,
	TestPublishRate,
	// mqttconnect.go
	TestFirstPacketMustBeConnect,
	TestConnectTimeout,
	TestConnectRefusals,
	TestConnack,
	TestConnackMaximumPacketSize,
	TestUserNameIsIgnored,
	TestTakeover,
	TestKeepAlive,
	TestFaultsAfterConnack,
	TestDisconnect,
	// mqttdelivery.go
	TestSubackAnswersEveryFilter,
	TestUnsubscribe,
	TestNoLocal,
	TestRetainAsPublished,
	TestRetainHandling,
	TestSubscriptionIdentifier,
	TestPropertiesTravelUnaltered,
	TestMessageExpiry,
	TestPublishWithoutPermission,
	TestClientMaximumPacketSize,
	// reload.go
	TestReloadOfCertificate,
	TestReloadOfLimits,
	TestReloadReportsSettingsThatNeedRestart,
	// resume.go
	TestFirstIDIncludesGivenVersions,
	TestLargeRetainedMessagesOfAStream,
	// sockets.go
	TestMaxSockets,
	TestMaxSocketsAllBusy,
	TestMaxSocketsTLS,
	TestOpsAtMaxSockets,
	TestReloadOfMaxSockets,
	TestMaxConnectionsPerIPCountsSockets,
	TestIdleTimeout,
	// sse.go
	TestStreamHead,
	TestHeadOfEventsIsNoStream,
	TestStreamRefusals,
	TestStreamCredentials,
	TestTokenRefusals,
	TestRequireExp,
	TestMessageEvents,
	TestEnvelope,
	TestKeepAliveEvent,
	TestBytesAfterRequestAreIgnored,
	// stalled.go
	TestStalledReaderIsClosed,
	// tls.go
	TestSlowReaderIsNotClosed,
	TestTLS,
	// websocket.go
	TestSubprotocol,
	TestPacketsSplitAcrossFrames,
	TestWebSocket,
	TestWebSocketKeepAlive,
	// will.go
	TestWill,
	TestWillProperties,
	TestWillTopics,
}

// measured lists the scenarios that every mode runs one at a time, because they measure the whole
// process.
var measured = []func(t *testing.T){
	// hostile.go
	TestHostileBytes,
	TestHostileSlowRequests,
	TestHostileReconnects,
	TestHostileRequestHeads,
	TestLongestLastEventID,
	TestHostileTokens,
	TestHostileBodies,
	// hostilemqtt.go
	TestHostileFrames,
	TestHostilePackets,
	TestHostileConnects,
	TestHostileStalledReaders,
	TestHostileStalledReadersAreClosed,
	// stalled.go
	TestStalledReader,
}

// measuredWithoutNATS lists those whose process must not run a NATS server, which has memory,
// goroutines and descriptors of its own.
var measuredWithoutNATS = []func(t *testing.T){
	// churn.go
	TestChurn,
	// memory.go
	TestMemory,
	// mqttdelivery.go
	TestSubscribeToManyLargeRetained,
}

// clusterScenarios lists the scenarios of several nodes over NATS. They run in a mode of their own,
// several at a time.
var clusterScenarios = []func(t *testing.T){
	// cluster.go
	TestClusterDelivery,
	TestClusterResume,
	TestClusterNothingIsLostAfterSubscribing,
	TestClusterTakeover,
	TestClusterTakeoverDuringNATSOutage,
	TestClusterKeys,
	TestClusterTopics,
	TestClusterStreamLost,
	TestClusterKeyBucketLost,
	TestClusterSendsNoClientIdentifiers,
	// outage.go
	TestClusterNATSOutage,
	TestClusterMQTTPublishDuringNATSOutage,
	TestClusterStartsBeforeNATS,
	TestClusterStopsBeforeNATS,
	// rolling.go
	TestClusterRollingRestart,
}
