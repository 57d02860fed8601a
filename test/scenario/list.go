package scenario

import "testing"

// All lists the scenarios that every mode runs, several at a time.
var All = []func(t *testing.T){
	// backlog.go
	TestSubscriberBuffer,
	TestBacklogMemory,
	// delivery.go
	TestNothingIsLostAfterTheSubscription,
	TestEveryPublicationReachesBothProtocols,
	TestOrderOfOnePublisher,
	TestPipelinedRetainedPublishesKeepTheirOrder,
	TestOrderOfPosts,
	TestTopicsAreOpaque,
	TestWhoLeavesIsForgotten,
	// durable.go
	TestDurableStream,
	TestPlainSubscriberSeesRetainedPublishes,
	TestDurableResume,
	TestDurableResumeWithSpacePaddedHex,
	TestDurableTopicsThatNeedEscaping,
	TestIDNamesWhatWasGiven,
	TestClears,
	TestTTL,
	TestRestart,
	TestDurableVersionsNeverStepBack,
	// ending.go
	TestTokenExpires,
	TestTokenExpiryIsNotEnforced,
	TestKeyIsDeleted,
	TestDrain,
	TestDrainOfNobody,
	TestDrainServesDeletions,
	TestDrainOfOneWhoDoesNotRead,
	TestDrainOfOneWhoIsSending,
	TestStreamOfOneWhoGoesOnSending,
	// framing.go
	TestStreamFraming,
	TestRefusalFraming,
	TestCutStreamHasNoLastChunk,
	// halfclose.go
	TestSendingSideIsShut,
	// http2.go
	TestSilentHTTP2StreamStays,
	TestHTTP2StreamEndsWhole,
	TestHTTP2Requests,
	TestHTTP2RequestHeaders,
	// limits.go
	TestMaxConnections,
	TestTakeOverAtMaxConnections,
	TestMaxConnectionsOfStrangers,
	TestMaxConnectionsPerIP,
	TestMaxConnectionsPerIPGivesBack,
	TestPublishRate,
	// mqttconnect.go
	TestAnythingButConnectFirst,
	TestConnectMustBeWholeInTime,
	TestConnectRefusals,
	TestConnack,
	TestConnackSaysTheMaximumPacketSize,
	TestUserNameIsIgnored,
	TestTakeOver,
	TestKeepAlive,
	TestFaultsAfterConnack,
	TestDisconnect,
	TestSubprotocol,
	TestPacketsAnywhereInFrames,
	TestWebSocket,
	TestWebSocketKeepAlive,
	// mqttdelivery.go
	TestSubackAnswersEveryFilter,
	TestUnsubscribe,
	TestNoLocal,
	TestRetainAsPublished,
	TestRetainHandling,
	TestSubscriptionIdentifier,
	TestPropertiesTravelUnaltered,
	TestMessageExpiry,
	TestPublishWithoutTheRight,
	TestMaximumPacketSizeOfTheClient,
	// reload.go
	TestReloadOfCertificate,
	TestReloadOfLimits,
	TestReloadSaysWhatNeedsARestart,
	// resume.go
	TestFirstIDNamesWhatWasGiven,
	TestLargeRetainedMessagesOfAStream,
	// sockets.go
	TestMaxSockets,
	TestMaxSocketsAllBusy,
	TestMaxSocketsTLS,
	TestOpsAtMaxSockets,
	TestReloadOfMaxSockets,
	TestMaxConnectionsPerIPCountsSockets,
	TestIdleTimeout,
	TestHeaderFields,
	TestHTTPToTLS,
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
	TestBytesAfterTheRequestMeanNothing,
	// stalled.go
	TestStalledReaderIsClosed,
	// tls.go
	TestHTTP2Streams,
	TestHTTP2StreamThatIsNotRead,
	TestSlowReaderIsNotClosed,
	TestTLS,
	// will.go
	TestWill,
	TestWillIsAMessageOfItsClient,
	TestWillTopics,
}

// Measured lists the scenarios that every mode runs one at a time, because they measure the whole
// process.
var Measured = []func(t *testing.T){
	// hostile.go
	TestHostileBytes,
	TestHostileSlowness,
	TestHostileComingAndGoing,
	TestHostileRequestHeads,
	TestLongestLastEventID,
	TestHostileTokens,
	TestHostileBodies,
	// hostile_mqtt.go
	TestHostileFrames,
	TestHostilePackets,
	TestHostileConnects,
	TestHostileClientsThatDoNotRead,
	TestHostileClientsThatDoNotReadAreClosed,
	// stalled.go
	TestStalledReader,
}

// MeasuredWithoutNATS lists those whose process must not run a NATS server, which has memory,
// goroutines and descriptors of its own.
var MeasuredWithoutNATS = []func(t *testing.T){
	// churn.go
	TestChurn,
	// memory.go
	TestMemory,
	// mqttdelivery.go
	TestSubscribeToManyLargeRetained,
}

// Clusters lists the scenarios of several nodes over NATS. They run in a mode of their own, several
// at a time.
var Clusters = []func(t *testing.T){
	// away.go
	TestClusterWhileNATSIsAway,
	TestClusterMQTTPublisherWhileNATSIsAway,
	TestClusterStartsBeforeNATS,
	TestClusterEndsBeforeNATS,
	// cluster.go
	TestClusterDelivery,
	TestClusterResume,
	TestClusterNothingIsLostAfterTheSubscription,
	TestClusterTakeOver,
	TestClusterTakeOverWhileNATSIsAway,
	TestClusterKeys,
	TestClusterTopics,
	TestClusterStreamLost,
	TestClusterKeyBucketLost,
	TestClusterSendsNoClientIdentifiers,
	// rolling.go
	TestClusterRollingRestart,
}
